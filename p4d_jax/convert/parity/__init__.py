"""Our modules against reference cases: one file a room, one function a case; see `check_parity`."""
