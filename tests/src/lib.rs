//! End-to-end tests of Portolan.
