"""A module that cannot be imported."""

import no_such_module  # type: ignore[import-not-found]

handler = no_such_module.handler
