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
