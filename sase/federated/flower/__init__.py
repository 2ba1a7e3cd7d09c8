"""Everything that imports or starts Flower."""
