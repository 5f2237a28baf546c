"""How Sluice is packaged, watched and checked; tools of this repository, in no image and no wheel."""
