import java.io.ByteArrayInputStream;
import java.io.FileInputStream;
import java.io.FileReader;
import java.net.HttpURLConnection;
import java.net.URL;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.Security;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.List;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.bouncycastle.asn1.pkcs.PrivateKeyInfo;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.openssl.PEMKeyPair;
import org.bouncycastle.openssl.PEMParser;
import org.bouncycastle.openssl.jcajce.JcaPEMKeyConverter;
import org.bouncycastle.util.io.pem.PemObject;

/**
 * Calls a service with a client certificate that is read as OpenCADC's Java clients read it, and prints status and
 * caller. They parse the first object of the file, whatever it is, and take nothing but certificates (and RSA keys,
 * as PKCS#8) from those behind it. Without a key they go on as nobody.
 *
 * <p>Arguments: PEM file, trust store (PKCS#12), its password, URL.
 */
public class WhoAmI {
    public static void main(String[] arguments) throws Exception {
        Security.addProvider(new BouncyCastleProvider());
        SSLContext context = SSLContext.getInstance("TLS");
        KeyManagerFactory keys = KeyManagerFactory.getInstance("SunX509");
        keys.init(identity(arguments[0]), "secret".toCharArray());
        KeyStore trusted = KeyStore.getInstance("PKCS12");
        try (FileInputStream store = new FileInputStream(arguments[1])) {
            trusted.load(store, arguments[2].toCharArray());
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(trusted);
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        HttpsURLConnection.setDefaultSSLSocketFactory(context.getSocketFactory());
        HttpURLConnection connection = (HttpURLConnection) new URL(arguments[3]).openConnection();
        System.out.println(connection.getResponseCode() + " " + connection.getHeaderField("X-VO-Authenticated"));
    }

    private static KeyStore identity(String file) throws Exception {
        JcaPEMKeyConverter converter = new JcaPEMKeyConverter().setProvider("BC");
        PrivateKey key = null;
        List<Certificate> chain = new ArrayList<>();
        try (PEMParser parser = new PEMParser(new FileReader(file))) {
            Object found = parser.readObject();
            if (found instanceof PEMKeyPair) {
                key = converter.getPrivateKey(((PEMKeyPair) found).getPrivateKeyInfo());
            } else if (found instanceof PrivateKeyInfo) {
                key = converter.getPrivateKey((PrivateKeyInfo) found);
            } else if (found instanceof X509CertificateHolder) {
                chain.add(certificate(((X509CertificateHolder) found).getEncoded()));
            }
            for (PemObject next = parser.readPemObject(); next != null; next = parser.readPemObject()) {
                if (next.getType().equals("CERTIFICATE")) {
                    chain.add(certificate(next.getContent()));
                }
            }
        }
        KeyStore store = KeyStore.getInstance("JKS");
        store.load(null, null);
        if (key != null) {
            store.setKeyEntry("identity", key, "secret".toCharArray(), chain.toArray(new Certificate[0]));
        }
        return store;
    }

    private static Certificate certificate(byte[] encoded) throws Exception {
        return CertificateFactory.getInstance("X.509").generateCertificate(new ByteArrayInputStream(encoded));
    }
}
