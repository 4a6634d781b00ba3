import java.io.BufferedInputStream;
import java.io.InputStream;
import java.io.PrintStream;
import java.util.zip.CRC32;
import java.util.zip.ZipEntry;
import java.util.zip.ZipInputStream;
import org.apache.commons.compress.archivers.zip.ZipArchiveInputStream;

/**
 * Reads a zip from standard input as a stream and prints CRC-32, size and name of each member.
 *
 * <p>Argument: whose reader, {@code jdk} or {@code commons}.
 */
public class ReadZip {
    private static final PrintStream OUT = new PrintStream(System.out, false, java.nio.charset.StandardCharsets.UTF_8);

    public static void main(String[] arguments) throws Exception {
        InputStream source = new BufferedInputStream(System.in, 1 << 20);
        if (arguments[0].equals("jdk")) {
            ZipInputStream zip = new ZipInputStream(source);
            for (ZipEntry entry = zip.getNextEntry(); entry != null; entry = zip.getNextEntry()) {
                tell(entry, zip);
            }
        } else {
            ZipArchiveInputStream zip = new ZipArchiveInputStream(source);
            for (ZipEntry entry = zip.getNextZipEntry(); entry != null; entry = zip.getNextZipEntry()) {
                tell(entry, zip);
            }
        }
        OUT.flush();
    }

    private static void tell(ZipEntry entry, InputStream content) throws Exception {
        CRC32 checksum = new CRC32();
        byte[] block = new byte[1 << 16];
        long size = 0;
        for (int read = content.read(block); read >= 0; read = content.read(block)) {
            checksum.update(block, 0, read);
            size += read;
        }
        OUT.printf("%08x %d %s%n", checksum.getValue(), size, entry.getName());
    }
}
