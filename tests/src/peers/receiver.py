"""A receiving mail server on the standard library: keeps what comes, byte for byte.

Usage: receiver.py PORT none|starttls|implicit CERTIFICATE KEY FOLDER EXTENSION...
       receiver.py verify RECORD FILE...      DKIM by dkimpy; prints "FILE verdict" for each
Every message becomes FOLDER/N.eml, content as sent (dots unstuffed, CRLF), and FOLDER/N.env with its envelope.
"""

import asyncio
import itertools
import os
import ssl
import sys

NUMBERS = itertools.count(1)


class Session:
    def __init__(self, reader, writer, options):
        self.reader, self.writer, self.options = reader, writer, options
        self.secure = options["tls"] == "implicit"
        self.reset()

    def reset(self):
        self.sender, self.recipients, self.chunks = None, [], []

    async def say(self, *lines):
        for line in lines:
            self.writer.write(line.encode() + b"\r\n")
        await self.writer.drain()

    async def run(self):
        await self.say("220 python.test ESMTP")
        while line := await self.reader.readline():
            if not line.endswith(b"\r\n"):
                await self.say("500 5.5.2 lines end with CRLF")
                return
            text = line[:-2].decode("utf-8")
            verb = text.split(" ")[0].split(":")[0].upper()
            if not await self.command(verb, text):
                return

    async def command(self, verb, text):
        if verb == "HELO":
            self.reset()
            await self.say("250 python.test")
        elif verb == "EHLO":
            self.reset()
            offers = ["python.test", *self.options["extensions"]]
            if self.options["tls"] == "starttls" and not self.secure:
                offers.append("STARTTLS")
            await self.say(*[f"250-{offer}" for offer in offers[:-1]], f"250 {offers[-1]}")
        elif verb == "STARTTLS":
            await self.say("220 2.0.0 go")
            await self.writer.start_tls(self.options["context"])
            self.secure = True
            self.reset()
        elif verb in ("MAIL", "RCPT") and self.options["tls"] != "none" and not self.secure:
            await self.say("530 5.7.0 only inside TLS")
        elif verb == "MAIL":
            self.sender = text
            await self.say("250 2.1.0 ok")
        elif verb == "RCPT":
            self.recipients.append(text)
            await self.say("250 2.1.5 ok")
        elif verb == "DATA":
            await self.say("354 go")
            await self.data()
        elif verb == "BDAT":
            words = text.split(" ")
            self.chunks.append(await self.reader.readexactly(int(words[1])))
            if words[-1].upper() == "LAST":
                await self.keep(b"".join(self.chunks))
            else:
                await self.say("250 2.0.0 ok")
        elif verb == "QUIT":
            await self.say("221 2.0.0 bye")
            return False
        elif verb in ("RSET", "NOOP"):
            self.reset()
            await self.say("250 2.0.0 ok")
        else:
            await self.say("500 5.5.1 what?")
        return True

    async def data(self):
        lines = []
        while (line := await self.reader.readline()) != b".\r\n":
            if not line:
                return
            lines.append(line[1:] if line.startswith(b".") else line)
        await self.keep(b"".join(lines))

    async def keep(self, content):
        number = next(NUMBERS)
        path = os.path.join(self.options["folder"], f"{number}")
        with open(path + ".env", "w", encoding="utf-8") as file:
            tls = self.writer.get_extra_info("cipher")
            file.write("\n".join([self.sender, *self.recipients, f"tls {tls}"]) + "\n")
        with open(path + ".part", "wb") as file:
            file.write(content)
        os.rename(path + ".part", path + ".eml")
        self.reset()
        await self.say(f"250 2.0.0 kept as {number}")


async def serve(port, tls, certificate, key, folder, extensions):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    options = {"tls": tls, "context": context, "folder": folder, "extensions": extensions}

    async def connected(reader, writer):
        try:
            await Session(reader, writer, options).run()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()

    limit = 1 << 20
    context = context if tls == "implicit" else None
    server = await asyncio.start_server(connected, "127.0.0.1", port, limit=limit, ssl=context)
    async with server:
        await server.serve_forever()


def verify(record, files):
    import dkim

    with open(record, encoding="ascii") as file:
        records = dict(line.rstrip("\n").split(" ", 1) for line in file if " " in line)
    known = {name.rstrip(".").encode(): value.encode() for name, value in records.items()}
    for path in files:
        with open(path, "rb") as file:
            message = file.read().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        right = dkim.verify(message, dnsfunc=lambda name, **_: known.get(name.rstrip(b".")))
        print(path, "right" if right else "wrong")


if sys.argv[1] == "verify":
    verify(sys.argv[2], sys.argv[3:])
else:
    asyncio.run(serve(int(sys.argv[1]), *sys.argv[2:6], sys.argv[6:]))
