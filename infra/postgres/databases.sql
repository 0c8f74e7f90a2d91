-- Three stores, one server: ours is made by the image, Prefect's and MLflow's here. Prefect needs pg_trgm.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
\connect prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm;
