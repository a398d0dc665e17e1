"""ids: names for what a connection makes, from a counter."""

import msgspec


class Ids(msgspec.Struct):
    """Ids that no other connection of this server gives: they carry the connection's number."""

    connection: int
    given: int = 0

    def new(self, kind: str) -> str:
        """The next id: `item_2_17` is the 17th thing that connection 2 named."""
        self.given += 1
        return f"{kind}_{self.connection}_{self.given}"
