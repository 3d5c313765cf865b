"""Sends a message file with smtplib.

Usage: smtplib_client.py PORT clear|starttls|implicit USER PASSWORD FROM TO FILE
USER may be empty: no AUTH.
"""

import smtplib
import ssl
import sys

port, tls, user, password, sender, recipient, path = sys.argv[1:8]
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
if tls == "implicit":
    session = smtplib.SMTP_SSL("127.0.0.1", int(port), context=context, timeout=30)
else:
    session = smtplib.SMTP("127.0.0.1", int(port), timeout=30)
session.ehlo("client.test")
if tls == "starttls":
    session.starttls(context=context)
    session.ehlo("client.test")
if user:
    session.login(user, password)
with open(path, "rb") as file:
    content = file.read()
options = ["BODY=8BITMIME"] if not content.isascii() else []
refused = session.sendmail(sender, recipient.split(","), content, mail_options=options)
assert not refused, refused
session.quit()
