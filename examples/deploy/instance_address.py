"""Prints the private address of the EC2 instance this runs on, from its metadata service (IMDSv2).

export DD_AGENT_HOST="$(python instance_address.py)"
"""

from __future__ import annotations

import sys
from urllib.request import Request, urlopen

METADATA = "http://169.254.169.254/latest"


def address(metadata: str = METADATA) -> str:
    """Requests a token, and with it the address; raises `OSError` without a response within two seconds."""
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = fetch(Request(f"{metadata}/api/token", method="PUT", headers=lifetime))
    return fetch(Request(f"{metadata}/meta-data/local-ipv4", headers={"X-aws-ec2-metadata-token": token}))


def fetch(request: Request) -> str:
    """The text of the response."""
    with urlopen(request, timeout=2) as response:
        text: str = response.read().decode()
    return text


if __name__ == "__main__":
    try:
        print(address())
    except OSError as error:
        sys.exit(f"no address from the instance's metadata service: {error}")
