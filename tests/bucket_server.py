"""A bucket on loopback, for tests of `gs://`: `python bucket_server.py PORT BUCKET`.

This is gcp-storage-emulator with two additions that tensorstore needs: responses give the generation of an
object with its content, and requests may require that an object has, or does not have, a generation.
"""

import sys
from urllib.parse import parse_qs, unquote, urlsplit

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound


class Response(server.Response):
    """Adds the generation of the requested object."""

    def close(self):
        if self._handler.generation:
            self["x-goog-generation"] = self._handler.generation
        super().close()


class Router(server.Router):
    """Checks the conditions of a request first. The server handles one request after the other."""

    def handle(self, method):
        handler = self._request_handler
        address = urlsplit(handler.path)
        query = parse_qs(address.query)
        if "/moveTo/" in address.path:
            return self._refuse(400)  # the emulator does not support it; gcsfs then copies and deletes
        found = self._generation(address.path, query)
        handler.generation = found if method == "GET" else None
        if query.get("ifGenerationMatch", [found])[0] != found:
            return self._refuse(412)
        if found != "0" and query.get("ifGenerationNotMatch", [None])[0] == found:
            return self._refuse(304)
        return super().handle(method)

    def _generation(self, path, query):
        """Returns the generation of the object in a request, as text; "0": there is no such object."""
        _, _, object_path = path.partition("/b/")
        bucket, _, name = object_path.partition("/o")
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
