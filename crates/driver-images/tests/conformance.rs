//! The driver conforms, over raw and over qcow2 images.

mod common;

use common::Images;
use portolan_testkit::driver;

#[tokio::test]
async fn raw_images_conform() {
    driver::all(Images::raw).await;
}

#[tokio::test]
async fn qcow2_images_conform() {
    driver::all(|| Images::new(true)).await;
}
