"""Two saved maps of places that overlap made one (``r3 map merge``)."""
