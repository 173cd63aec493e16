//! The committed OpenAPI documents are what the server generates.

use portolan_e2e::Site;

#[test]
fn the_committed_documents_are_the_generated_ones() {
    for dialect in ["manage", "orchestrator", "vplus"] {
        let said = Site::empty().run(&["openapi", dialect]);
        assert_eq!(said.code, Some(0), "{}", said.err);
        let committed = format!("{}/../docs/openapi/{dialect}.json", env!("CARGO_MANIFEST_DIR"));
        let committed = std::fs::read_to_string(&committed).unwrap_or_else(|e| panic!("{committed}: {e}"));
        assert!(said.out == committed, "{dialect}: run `cargo xtask openapi`, and look at the difference");
    }
}
