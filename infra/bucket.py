"""The bucket that MLflow writes to, made if absent, on the store of `MLFLOW_S3_ENDPOINT_URL`."""

from __future__ import annotations

import os
from typing import Any

import boto3

BUCKET = "mlflow"


def make_bucket() -> None:
    """Make it; a store that holds it already is left as it is."""
    store: Any = boto3.client(
        "s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"], region_name="us-east-1"
    )
    if BUCKET not in [bucket["Name"] for bucket in store.list_buckets()["Buckets"]]:
        store.create_bucket(Bucket=BUCKET)


if __name__ == "__main__":
    make_bucket()
