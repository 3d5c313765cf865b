//! Ready queues: which recipient goes next on one path.
