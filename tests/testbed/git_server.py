"""git over https on loopback: `git http-backend` behind Python's own server, with a certificate of its own authority.

    git_server.py FOLDER TOKEN

FOLDER holds bare repositories and gets `ca.crt`, `server.*` and `requests.log`, a line per request: method, path, the
decoded credentials or `-`. Repositories below `private/` want the token as password, whatever the user. What is asked
for below `moved/` is at the same place on another port of the same machine, which asks nothing and records too. Prints
one line of JSON when it serves, and ends with its standard input.
"""

import base64
import json
import os
import pathlib
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import certificates

FOLDER, TOKEN = pathlib.Path(sys.argv[1]), sys.argv[2]
BACKEND = pathlib.Path(subprocess.run(["git", "--exec-path"], check=True, capture_output=True, text=True).stdout.strip())
LOG = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.serve()

    def do_POST(self):
        self.serve()

    def serve(self):
        path, _, query = self.path.partition("?")
        given = self.credentials()
        with LOG, open(FOLDER / "requests.log", "a", encoding="utf-8") as log:
            print(self.server.label, self.command, path, given or "-", file=log)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.chunks()
        if path.startswith("/moved/") and self.server.label == "first":
            return self.answer(302, {"Location": f"https://localhost:{self.server.other}{self.path}"}, b"")
        if path.startswith("/private/") and (given or "").partition(":")[2] != TOKEN:
            return self.answer(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"who are you?")
        environment = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(FOLDER), "GIT_HTTP_EXPORT_ALL": "1", "HOME": str(FOLDER),
            "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command, "REMOTE_USER": "somebody",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "GIT_CONFIG_COUNT": "1",
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
        }
        said = subprocess.run([BACKEND / "git-http-backend"], input=body, env=environment, capture_output=True, check=False)
        head, _, content = said.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        status = int(fields.pop("Status", "200 OK").split()[0])
        return self.answer(status, fields, content)

    def credentials(self):
        value = self.headers.get("Authorization", "")
        return base64.b64decode(value.removeprefix("Basic ")).decode() if value.startswith("Basic ") else None

    def chunks(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, status, fields, content):
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def start(label, context):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.label, server.daemon_threads = label, True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main():
    certificates.write(FOLDER)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(FOLDER / "server.crt", FOLDER / "server.key")
    first, second = start("first", context), start("second", context)
    first.other, second.other = second.server_port, first.server_port
    print(json.dumps({"port": first.server_port}), flush=True)
    sys.stdin.read()


main()
