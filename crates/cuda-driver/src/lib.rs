//! The `cu*` symbols that `cust` links to.
