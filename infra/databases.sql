-- run once, when the database is made; POSTGRES_DB is there already
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_auth;
