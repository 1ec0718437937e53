"""Judges a report of sslyze: only TLS 1.2 and 1.3, only suites with forward secrecy and authenticated encryption, and none of
the weaknesses that it looks for.

usage: sslyze_report.py REPORT.json
"""

import json
import sys

with open(sys.argv[1]) as file:
    [server] = json.load(file)["server_scan_results"]
if server["scan_status"] != "COMPLETED":
    sys.exit(f"the scan is {server['scan_status']}: {server.get('connectivity_error_trace')}")
scan = server["scan_result"]
problems, looked = [], 0


def result(name):
    global looked
    looked += 1
    attempt = scan[name]
    if attempt["status"] != "COMPLETED":
        sys.exit(f"{name} is {attempt['status']}: {attempt.get('error_reason')} {attempt.get('error_trace')}")
    return attempt["result"]


def expect(name, field, expected):
    found = result(name)[field]
    if found != expected:
        problems.append(f"{name}.{field}: expected {expected!r}, found {found!r}")


def suites(version):
    return [suite["cipher_suite"]["name"] for suite in result(f"{version}_cipher_suites")["accepted_cipher_suites"]]


for old in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"):
    if accepted := suites(old):
        problems.append(f"{old} is accepted: {accepted}")
spoken = 0
for version, begins in (("tls_1_2", "TLS_ECDHE_"), ("tls_1_3", "TLS_")):
    accepted = suites(version)
    spoken += len(accepted)
    if not accepted:
        problems.append(f"{version} is not accepted")
    for suite in accepted:
        if not suite.startswith(begins) or not any(aead in suite for aead in ("_GCM_", "_CHACHA20_POLY1305_")):
            problems.append(f"{version} accepts {suite}: no forward secrecy or no authenticated encryption")

expect("heartbleed", "is_vulnerable_to_heartbleed", False)
expect("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", False)
expect("robot", "robot_result", "NOT_VULNERABLE_RSA_NOT_SUPPORTED")
expect("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", False)
expect("tls_compression", "supports_compression", False)
expect("tls_extended_master_secret", "supports_ems_extension", True)
# What is sent early may be sent twice by somebody else (RFC 8470).
expect("tls_1_3_early_data", "supports_early_data", False)
expect("tls_fallback_scsv", "supports_fallback_scsv", True)
if weak := [curve["name"] for curve in result("elliptic_curves")["supported_curves"] or [] if "P-192" in curve["name"] or "160" in curve["name"]]:
    problems.append(f"weak curves: {weak}")
if problems:
    sys.exit("\n".join(problems))
print(f"no weakness in {looked} examinations; {spoken} suites, all with forward secrecy and authenticated encryption")
