//! How much may go where: limiters, leases, built-in caution.
