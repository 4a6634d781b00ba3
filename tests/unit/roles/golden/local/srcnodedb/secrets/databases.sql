-- Run at each start, by the superuser over the local socket. The services have accounts of their own, as in this
-- project's image; nothing is ever dropped.
\set ON_ERROR_STOP on
-- A statement that fails is not to leave its password in the log.
SET log_min_error_statement = panic;
SET client_min_messages = warning;
SET password_encryption = 'scram-sha-256';
SELECT 'CREATE ROLE "cavern"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cavern') \gexec
ALTER ROLE "cavern" LOGIN PASSWORD 'cavern_db_password';
SELECT 'CREATE DATABASE "cavern"' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'cavern') \gexec
ALTER DATABASE "cavern" OWNER TO "cavern";
REVOKE ALL ON DATABASE "cavern" FROM PUBLIC;
SELECT 'CREATE ROLE "preparer"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'preparer') \gexec
ALTER ROLE "preparer" LOGIN PASSWORD 'preparer_db_password';
SELECT 'CREATE DATABASE "prepare_data"' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'prepare_data') \gexec
ALTER DATABASE "prepare_data" OWNER TO "preparer";
REVOKE ALL ON DATABASE "prepare_data" FROM PUBLIC;
-- The image's own accounts have published passwords, and whoever is in the network could use them.
SELECT format('ALTER ROLE %I NOLOGIN', rolname) FROM pg_roles
  WHERE rolname IN ('cadmin', 'tapadm', 'tapuser') AND rolcanlogin
    AND rolname NOT IN ('cavern', 'preparer') \gexec
\connect "cavern"
CREATE SCHEMA IF NOT EXISTS "vospace" AUTHORIZATION "cavern";
ALTER SCHEMA "vospace" OWNER TO "cavern";
CREATE SCHEMA IF NOT EXISTS "uws" AUTHORIZATION "cavern";
ALTER SCHEMA "uws" OWNER TO "cavern";
