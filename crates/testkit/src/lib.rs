//! Conformance suites for every port, fakes, a fake clock and fixtures. For tests only.

pub mod clock;
pub mod cloud;
pub mod db;
pub mod demo_guest;
pub mod driver;
pub mod fake_hypervisor;
pub mod repository;
pub mod scripted_cloud;
pub mod storage;
pub mod tasks;
