"""Unpacks the image and the Debian package, and runs the program of each where nothing else is: as the
image's user, with the image's libraries and certificate authorities. Needs root, and a network namespace of
its own.

Usage: images.py <folder of the packages>
"""

import datetime
import http.server
import json
import shutil
import ssl
import sys
import tempfile
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from packaged import KEY, PROGRAM, expect_tools, one, run
from work import expect

(packages,) = (Path(path).absolute() for path in sys.argv[1:])
DEPLOY = Path(__file__).parents[2] / "deploy"
BUNDLE = "etc/ssl/certs/ca-certificates.crt"
HOST = "qovery.test"


class Qovery(http.server.BaseHTTPRequestHandler):
    """Knows no organization."""

    def do_GET(self):
        body = b'{"results":[]}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def certified(subject, issuer, issuer_key, *extensions):
    """A certificate and its key, signed by an issuer, or by itself where there is none."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(
        issuer.subject if issuer else name,
        name,
        key.public_key(),
        x509.random_serial_number(),
        now - datetime.timedelta(hours=1),
        now + datetime.timedelta(hours=1),
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key or key, hashes.SHA256()), key


def serve(directory):
    """The address of an upstream with TLS, and the authority that one must trust to use it."""
    authority, authority_key = certified(
        "authority of the gate", None, None, x509.BasicConstraints(ca=True, path_length=None)
    )
    host = x509.SubjectAlternativeName([x509.DNSName(HOST)])
    certificate, key = certified("upstream", authority, authority_key, host)
    pem = serialization.Encoding.PEM
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain = directory / "upstream.pem"
    chain.write_bytes(plain + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Qovery)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"https://{HOST}:{server.server_port}", authority.public_bytes(pem)


def image(directory):
    layout = directory / "layout"
    layout.mkdir()
    run("tar", "--extract", "--file", one(packages, "*.oci.tar"), "--directory", layout)
    index = json.loads((layout / "index.json").read_text())
    (tag,) = [manifest["annotations"]["org.opencontainers.image.ref.name"] for manifest in index["manifests"]]

    def blob(digest):
        return json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())

    config = blob(blob(index["manifests"][0]["digest"])["config"]["digest"])["config"]
    entry = json.loads((packages / "server.json").read_text())
    label = config["Labels"]["io.modelcontextprotocol.server.name"]
    due = (entry["name"], f"{PROGRAM}:{entry['version']}")
    expect((label, tag) == due, f"the image is {label} {tag}")
    expect(config.get("User") == "10001:10001", f"the image runs as {config.get('User')}")

    run("umoci", "unpack", "--image", f"{layout}:{tag}", directory / "image")
    root = directory / "image/rootfs"
    odd = [
        path
        for path in root.rglob("*")
        if not path.is_symlink() and path.stat().st_mode & 0o6022 and path != root / "tmp"
    ]
    expect(not odd, f"others may write to {odd}, or it takes its owner's rights")
    chroot = [shutil.which("chroot"), f"--userspec={config['User']}", root, *config["Entrypoint"]]
    expect_tools(*chroot, "stdio", "--sandbox", directory=directory)

    # As a container's engine does.
    (root / "etc/hosts").write_text(f"127.0.0.1 {HOST}\n")
    url, authority = serve(directory)
    qovery = {"QOVERY_API_URL": url, "QOVERY_API_KEY": KEY}

    def check(code, **environment):
        return run(*chroot, "check", code=code, env=qovery | environment).splitlines()[-1]

    # The image's own authorities are read: they do not vouch for this certificate.
    refused = check(1)
    expect("UnknownIssuer" in refused, f"a certificate of an unknown authority: {refused}")
    bundle = root / BUNDLE
    shipped = bundle.read_bytes()
    count = shipped.count(b"BEGIN CERTIFICATE")
    expect(count > 100, f"the image trusts {count} authorities")
    # They are what was read: one more among them, and it is trusted.
    bundle.write_bytes(shipped + authority)
    trusted = check(0)
    bundle.write_bytes(shipped)
    # Without them, it fails in another way.
    moved = bundle.rename(directory / "authorities")
    none = check(1)
    moved.rename(bundle)
    expect("UnknownIssuer" not in none, f"without authorities: {none}")
    # Those of a company stand in their place.
    (root / "tmp/company.pem").write_bytes(authority)
    company = check(0, SSL_CERT_FILE="/tmp/company.pem")
    for verdict in [trusted, company]:
        expect(verdict.startswith("OK: Qovery accepts the key"), f"a trusted certificate: {verdict}")
    size = one(packages, "*.oci.tar").stat().st_size
    print(f"image: {size} bytes, {label} {tag}, as {config['User']}; {count} authorities")
    print(f"  not trusted: {refused}\n  without authorities: {none}\n  trusted: {trusted}")


def debian(directory):
    """Installs the package into a folder, with what is installed on this machine for its dependencies."""
    root = directory / "root"
    state = root / "var/lib/dpkg"
    for folder in ["info", "updates", "triggers"]:
        (state / folder).mkdir(parents=True)
    shutil.copy("/var/lib/dpkg/status", state)
    dpkg = ["dpkg", f"--root={root}", f"--log={directory}/log"]

    def there():
        return {path for path in root.rglob("*") if state not in path.parents}

    # dpkg looks for the programs that a package's scripts may call.
    before = there()
    run(*dpkg, "--install", one(packages, "*.deb"))
    expect(
        run(*dpkg, "--status", PROGRAM).count("Status: install ok installed") == 1,
        "the package is not installed",
    )
    program = root / f"usr/bin/{PROGRAM}"
    expect_tools(program, "stdio", "--sandbox", directory=directory)
    installed = sorted(f"/{path.relative_to(root)}" for path in there() if path.is_file())
    for path in [
        f"man/man1/{PROGRAM}.1.gz",
        f"bash-completion/completions/{PROGRAM}",
        f"doc/{PROGRAM}/copyright",
    ]:
        expect(f"/usr/share/{path}" in installed, f"the package lacks {path}")
    unit = root / f"usr/lib/systemd/system/{PROGRAM}.service"
    expect(unit.read_bytes() == (DEPLOY / unit.name).read_bytes(), f"{unit} is not the one of deploy/")
    run(*dpkg, "--purge", PROGRAM)
    left = there() - before
    expect(not left, f"the package leaves {left}")
    depends = run("dpkg-deb", "--field", one(packages, "*.deb"), "Depends").strip()
    print(f"Debian: {one(packages, '*.deb').name} installs and is purged; needs {depends}\n  {' '.join(installed)}")


for check in [image, debian]:
    with tempfile.TemporaryDirectory() as directory:
        check(Path(directory))
