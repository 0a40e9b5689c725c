"""What jattn is measured against; no part of the package."""
