//! Conformance suites for every port, fakes, a fake clock and fixtures. For tests only.

pub mod clock;
pub mod db;
pub mod driver;
pub mod fake_hypervisor;
pub mod repository;
pub mod storage;
pub mod tasks;
