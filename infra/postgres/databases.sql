-- Three stores, one server, a login each that reaches its own alone. Prefect needs pg_trgm.
\getenv store STORE_PASSWORD
\getenv prefect PREFECT_DB_PASSWORD
\getenv mlflow MLFLOW_DB_PASSWORD
CREATE ROLE quarterdeck LOGIN PASSWORD :'store';
CREATE ROLE prefect LOGIN PASSWORD :'prefect';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE DATABASE quarterdeck OWNER quarterdeck;
CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE mlflow OWNER mlflow;
REVOKE CONNECT ON DATABASE quarterdeck, prefect, mlflow FROM PUBLIC;
\connect prefect
SET ROLE prefect; -- whose the extension is then, so that a dump of it is brought back by prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm;
