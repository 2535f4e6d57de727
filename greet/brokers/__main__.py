"""Keep private brokers up until interrupted: `python -m greet.brokers --help`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from greet.brokers import private
from greet.brokers.process import together
from greet.designs import PRODUCTS, Product
from greet.errors import BrokerMissing
from greet.tasks import on_interrupt

DESCRIPTION = """\
Keeps a private broker of each kind running until it is interrupted, by Ctrl-C or SIGTERM.

Once a broker is ready, it prints a line `export VARIABLE=URL` to standard output. Run these lines in
another terminal. Then `python -m greet`, `python -m bench`, the tests and the notebooks use these
brokers instead of starting their own. A URL may contain a password; it is useless afterwards.
GREET_RABBITMQ_SERVER selects another `rabbitmq-server`: give it the path.
"""
STATUS = "Exit status: 0 when interrupted, 2 for wrong use, 3 if a requested broker is not available."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until interrupted; returns the exit status."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m greet.brokers", None, DESCRIPTION, STATUS, formatter_class=form)
    known = {product.name: product for product in PRODUCTS}
    parser.add_argument("--only", choices=known, help="start only this one; it is an error if it is not available")
    only = parser.parse_args(arguments).only
    required = only is not None or os.environ.get("GREET_REQUIRE") == "all"
    return asyncio.run(keep([known[only]] if only else PRODUCTS, required=required))


async def keep(products: Sequence[Product], *, required: bool) -> int:
    """Keep a broker of each of `products` running; 0 once interrupted, 3 if none, or a `required` one, is available."""
    task = asyncio.current_task()
    assert task is not None
    on_interrupt(lambda _: task.cancel())
    try:
        await together(*(keep_one(product, required=required) for product in products))
    except asyncio.CancelledError:
        return 0
    except BrokerMissing:
        pass  # it was named already
    except OSError as error:  # as when nobody reads the exports
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what was not written is not tried again at the end
        print(f"stopped: {error.strerror or error}", file=sys.stderr)
        return 2
    return 3


async def keep_one(product: Product, *, required: bool) -> None:
    """Keep one broker running until cancelled. If it is not available, print why, and raise that if `required`."""
    print(f"{product.title}: starting …", file=sys.stderr)
    try:
        async with private(product) as broker:
            print(f"export {product.variable}={broker.url}", flush=True)
            print(f"{product.title}: {broker.about} serves until Ctrl-C", file=sys.stderr)
            await asyncio.Event().wait()
    except BrokerMissing as error:
        print(f"{product.title}: {error}", file=sys.stderr)
        if required:
            raise


if __name__ == "__main__":
    sys.exit(main())
