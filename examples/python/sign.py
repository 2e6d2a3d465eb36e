#!/usr/bin/env python3
"""Makes a threshold account, signs a message with it and verifies the signature.

Needs nothing but Python 3.9. VAULT_ADDR and VAULT_TOKEN say which Vault; also
VAULT_NAMESPACE, VAULT_CACERT and MPC_MOUNT (default: mpc) are read.
"""

import base64
import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
import uuid


class Refused(Exception):
    """Vault or the engine said no: an HTTP status and texts for people."""

    def __init__(self, status, messages):
        super().__init__(f"status {status}: " + ("; ".join(messages) or "no reason given"))
        self.status, self.messages = status, messages

    def auxiliary_keys_pending(self):
        """Whether ECDSA works a little later, once the nodes have made theirs."""
        return self.status == 409 and any("auxiliary keys are still being made" in m for m in self.messages)


class Engine:
    """One mount of the engine, over Vault's HTTP API."""

    def __init__(self, address, token, mount="mpc", namespace=None, ca_file=None):
        self.base = f"{address.rstrip('/')}/v1/{mount.strip('/')}/"
        self.headers = {"X-Vault-Token": token, "X-Vault-Request": "true"}
        if namespace:
            self.headers["X-Vault-Namespace"] = namespace
        self.tls = ssl.create_default_context(cafile=ca_file) if address.startswith("https:") else None

    def call(self, path, fields=None):
        """Reads a path, or writes fields to it, and returns the answer's data."""
        body = None if fields is None else json.dumps(fields).encode()
        request = urllib.request.Request(self.base + path, data=body, headers=self.headers)
        try:
            # ECDSA takes seconds, and a node may have to be replaced meanwhile.
            with urllib.request.urlopen(request, timeout=65, context=self.tls) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            try:
                messages = json.loads(error.read())["errors"]
            except (ValueError, KeyError):
                messages = ["the answer is not one of Vault's: check VAULT_ADDR"]
            raise Refused(error.code, [re.sub(r"\s+", " ", m) for m in messages]) from None
        return json.loads(text)["data"] if text else None

    def account(self, name, algorithm):
        """Makes an account of two out of three shares, or finds it there."""
        return self.call(f"accounts/{name}", {"algorithm": algorithm, "threshold": 2, "shares": 3})

    def sign(self, name, message, request_id, **more):
        """Signs bytes. The same request_id gets the same signature for a day, so
        that this may be repeated whenever an answer was lost."""
        fields = {"input": base64.b64encode(message).decode(), "request_id": request_id, **more}
        end = time.monotonic() + 180
        while True:
            try:
                return self.call(f"sign/{name}", fields)
            except Refused as refused:
                if not refused.auxiliary_keys_pending() or time.monotonic() > end:
                    raise
            time.sleep(1)

    def verify(self, name, message, signature, **more):
        """Whether a signature, as sign returned it, is the account's."""
        fields = {"input": base64.b64encode(message).decode(), "signature": signature, **more}
        return self.call(f"verify/{name}", fields)["valid"]


def main(arguments):
    if len(arguments) not in (2, 3) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", arguments[0]):
        sys.exit("usage: sign.py ACCOUNT MESSAGE [ALGORITHM]")
    name, message = arguments[0], arguments[1].encode()
    algorithm = arguments[2] if len(arguments) == 3 else "ed25519"
    try:
        address, token = os.environ["VAULT_ADDR"], os.environ["VAULT_TOKEN"]
    except KeyError as missing:
        sys.exit(f"sign.py: {missing.args[0]} is not set")
    engine = Engine(address, token, os.environ.get("MPC_MOUNT", "mpc"),
                    os.environ.get("VAULT_NAMESPACE"), os.environ.get("VAULT_CACERT"))
    try:
        account = engine.account(name, algorithm)
        print(f"account    {account['name']}, {account['algorithm']}, {account['threshold']} of {account['shares']}")
        print(f"public key {account['public_key_hex']}")

        # An application stores this with the order, payment or document first.
        request_id = str(uuid.uuid4())
        answer = engine.sign(name, message, request_id)
        print(f"signature  {answer['signature']}")
        print("signed by  " + ", ".join(f"{s['node']} with share {s['index']}" for s in answer["signers"]))

        again = engine.sign(name, message, request_id)
        if again["signature"] != answer["signature"]:
            sys.exit("sign.py: the repetition made another signature: this engine does not know request_id")
        print("repeated   the same signature")

        if not engine.verify(name, message, answer["signature"]):
            sys.exit("sign.py: the signature is not valid")
        if engine.verify(name, message + b"!", answer["signature"]):
            sys.exit("sign.py: the signature is valid for another message")
        print("verified   by the engine, which needs no node for it")
    except Refused as refused:
        sys.exit(f"sign.py: {refused}")
    except OSError as error:
        sys.exit(f"sign.py: {address} cannot be reached: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
