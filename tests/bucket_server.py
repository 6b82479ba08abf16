"""A bucket on loopback, for tests of `gs://`: `python bucket_server.py PORT BUCKET`.

gcp-storage-emulator, with what tensorstore needs and it leaves out: the generation of an object with its
content, and writes and reads on the condition that an object has, or has not, a generation.
"""

import sys
from urllib.parse import parse_qs, unquote, urlsplit

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound


class Response(server.Response):
    """Tells the generation of the object that was asked for."""

    def close(self):
        if self._handler.generation:
            self["x-goog-generation"] = self._handler.generation
        super().close()


class Router(server.Router):
    """Looks at the conditions of a request first. The server answers one request after the other."""

    def handle(self, method):
        handler = self._request_handler
        address = urlsplit(handler.path)
        query = parse_qs(address.query)
        if "/moveTo/" in address.path:
            return self._refuse(400)  # unknown here; gcsfs copies and deletes then
        found = self._generation(address.path, query)
        handler.generation = found if method == "GET" else None
        if query.get("ifGenerationMatch", [found])[0] != found:
            return self._refuse(412)
        if found != "0" and query.get("ifGenerationNotMatch", [None])[0] == found:
            return self._refuse(304)
        return super().handle(method)

    def _generation(self, path, query):
        """That of the object in a request, as text; "0": it is not there."""
        _, _, place = path.partition("/b/")
        bucket, _, name = place.partition("/o")
        name = query.get("name", [unquote(name.removeprefix("/"))])[0]
        try:
            return self._request_handler.storage.get_file_obj(bucket, name)["generation"]
        except NotFound:
            return "0"

    def _refuse(self, status):
        self._request_handler.send_response(status)
        self._request_handler.send_header("Content-Length", "0")
        self._request_handler.end_headers()


server.Response, server.Router = Response, Router

if __name__ == "__main__":
    server.create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket=sys.argv[2]).run()
