"""HTTP/2 by httpx, over one connection. For every line of standard input, which is a list as JSON, what came of it, as one line of JSON:

["get", PATH], ["many", COUNT, PATH], ["post", PATH, BYTES], ["cancel", PATH]: see the functions;
["begin", PATH] and ["finish"]: an upload in two halves.
"""

import asyncio
import json
import ssl
import sys

import httpx

# Seconds that no step takes.
LIMIT = 60
HALF = 20_000


class Client:
    def __init__(self, where):
        self.where = where
        self.http = self.connected()
        self.upload = None
        self.half = None

    def connected(self):
        trust = ssl.create_default_context(cafile=self.where["ca"])
        trust.load_cert_chain(self.where["cert"], self.where["key"])
        limits = httpx.Limits(max_connections=1)
        return httpx.AsyncClient(
            http2=True, http1=False, base_url=self.where["url"], verify=trust, limits=limits, timeout=LIMIT, trust_env=False
        )

    async def get(self, path):
        return answer(await self.http.get(path))

    async def many(self, count, path):
        """The status of so many requests at once."""
        answers = await asyncio.gather(*(self.http.get(path) for _ in range(count)))
        return [answer.status_code for answer in answers]

    async def post(self, path, size):
        return answer(await self.http.post(path, content=bytes(at % 251 for at in range(size))))

    async def cancel(self, path):
        """Gives an answer up when some of it has come. httpx does not reset a stream, so that the connection has to end."""
        async with self.connected() as http, http.stream("GET", path) as stream:
            async for chunk in stream.aiter_raw():
                return len(chunk) > 0

    async def begin(self, path):
        self.half = asyncio.Event()

        async def halves():
            yield b"x" * HALF
            await self.half.wait()
            yield b"x" * HALF

        self.upload = asyncio.create_task(self.http.post(path, content=halves()))

    async def finish(self):
        self.half.set()
        return answer(await self.upload)


def answer(response):
    assert response.http_version == "HTTP/2", response.http_version
    return {"status": response.status_code, "text": response.text}


async def main():
    with open(sys.argv[1]) as file:
        client = Client(json.load(file))
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        step, *arguments = json.loads(line)
        try:
            told = await asyncio.wait_for(getattr(client, step)(*arguments), LIMIT)
        except httpx.HTTPError as error:
            told = {"error": repr(error)}
        print(json.dumps(told), flush=True)


asyncio.run(main())
