"""microburst, which keeps the host that a request was signed for.

Started by `tests/src/microburst.rs` with microburst's own arguments. Microburst forwards a request under the host of
its upstream; the emulator verifies signatures, and the signed host is that of the recording proxy before microburst.
"""

import sys

from microburst import cli, forward


def keep_signed_host():
    outbound = forward.Upstream._outbound_headers

    def with_signed_host(self, request):
        return {**outbound(self, request), "host": request.headers["host"]}

    forward.Upstream._outbound_headers = with_signed_host


keep_signed_host()
sys.exit(cli.main())
