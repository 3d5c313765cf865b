//! What the spool asks of a disk, and the drivers that carry it out.
