-- Run at each start, by the superuser over the local socket. The services have accounts of their own, as in this
-- project's image; nothing is ever dropped.
\set ON_ERROR_STOP on
-- A statement that fails is not to leave its password in the log.
SET log_min_error_statement = panic;
SET client_min_messages = warning;
SET password_encryption = 'scram-sha-256';
SELECT 'CREATE ROLE "posixmapper"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'posixmapper') \gexec
ALTER ROLE "posixmapper" LOGIN PASSWORD 'posix_mapper_db_password';
SELECT 'CREATE DATABASE "mapping"' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'mapping') \gexec
ALTER DATABASE "mapping" OWNER TO "posixmapper";
REVOKE ALL ON DATABASE "mapping" FROM PUBLIC;
-- The image's own accounts have published passwords, and whoever is in the network could use them.
SELECT format('ALTER ROLE %I NOLOGIN', rolname) FROM pg_roles
  WHERE rolname IN ('cadmin', 'tapadm', 'tapuser') AND rolcanlogin
    AND rolname NOT IN ('posixmapper') \gexec
\connect "mapping"
CREATE SCHEMA IF NOT EXISTS "mapping" AUTHORIZATION "posixmapper";
ALTER SCHEMA "mapping" OWNER TO "posixmapper";
-- The administrator has the number that the settings say, whichever service makes the tables. OpenCADC's POSIX mapper
-- would number him like anybody else at his first request, and Cavern go by the settings.
CREATE SCHEMA IF NOT EXISTS deployment;
CREATE OR REPLACE FUNCTION deployment.reserve_administrator() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
  -- Tables that are restored by the superuser come with their rows.
  IF session_user = 'posixmapper'
    AND to_regclass('mapping.users') IS NOT NULL AND to_regclass('mapping.groups') IS NOT NULL
  THEN
    INSERT INTO mapping.users (uid, username) OVERRIDING SYSTEM VALUE VALUES (9999, 'cavernadmin') ON CONFLICT DO NOTHING;
    INSERT INTO mapping.groups (gid, groupuri) OVERRIDING SYSTEM VALUE
      SELECT uid, 'ivo://default-group-should-be-ignored.opencadc.org/default-group?' || username
      FROM mapping.users WHERE uid = 9999 AND username = 'cavernadmin' ON CONFLICT DO NOTHING;

  END IF;
EXCEPTION WHEN others THEN
  RAISE WARNING 'cavern_root_owner_uid: the number is not reserved: %', SQLERRM;
END $$;
DROP EVENT TRIGGER IF EXISTS reserve_administrator;
CREATE EVENT TRIGGER reserve_administrator ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
  EXECUTE FUNCTION deployment.reserve_administrator();
DO $$
DECLARE
  holder text;
BEGIN
  IF to_regclass('mapping.users') IS NOT NULL AND to_regclass('mapping.groups') IS NOT NULL THEN
    INSERT INTO mapping.users (uid, username) OVERRIDING SYSTEM VALUE VALUES (9999, 'cavernadmin') ON CONFLICT DO NOTHING;
    INSERT INTO mapping.groups (gid, groupuri) OVERRIDING SYSTEM VALUE
      SELECT uid, 'ivo://default-group-should-be-ignored.opencadc.org/default-group?' || username
      FROM mapping.users WHERE uid = 9999 AND username = 'cavernadmin' ON CONFLICT DO NOTHING;

    SELECT username INTO holder FROM mapping.users WHERE uid = 9999 AND username <> 'cavernadmin';
    IF holder IS NOT NULL THEN
      RAISE EXCEPTION 'cavern_root_owner_uid: 9999 is the number of %, who would be the administrator: choose another', holder;
    END IF;
  END IF;
END $$;

