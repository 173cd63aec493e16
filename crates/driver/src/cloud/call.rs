//! The calls of the cloud port, by name.

use super::port::Capability;
use std::fmt;

macro_rules! calls {
    ($($name:ident $text:literal $capability:expr;)+) => {
        /// A call of [`super::CloudDriver`] that may go out to the provider.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum CloudCall {
            $(
                #[doc = concat!("[`super::CloudDriver::", $text, "`].")]
                $name,
            )+
        }

        impl CloudCall {
            /// Every call.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The method's name, `list_nodes`: for logs, metrics and tests.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What a driver must be able to do for it; nothing for the one call that every driver has.
            pub const fn needs(self) -> Option<Capability> {
                match self { $(Self::$name => $capability,)+ }
            }
        }
    };
}

calls! {
    ListNodes "list_nodes" None;
    CreateNode "create_node" Some(Capability::CreateNode);
    StartNode "start_node" Some(Capability::StartNode);
    StopNode "stop_node" Some(Capability::StopNode);
    RebootNode "reboot_node" Some(Capability::RebootNode);
    DestroyNode "destroy_node" Some(Capability::DestroyNode);
    ListSizes "list_sizes" Some(Capability::Sizes);
    ListImages "list_images" Some(Capability::Images);
    GetImage "get_image" Some(Capability::Images);
    CreateImage "create_image" Some(Capability::CreateImage);
    DeleteImage "delete_image" Some(Capability::DeleteImage);
    ListLocations "list_locations" Some(Capability::Locations);
    ListKeyPairs "list_key_pairs" Some(Capability::KeyPairs);
    GetKeyPair "get_key_pair" Some(Capability::KeyPairs);
    CreateKeyPair "create_key_pair" Some(Capability::CreateKeyPair);
    ImportKeyPair "import_key_pair" Some(Capability::ImportKeyPair);
    DeleteKeyPair "delete_key_pair" Some(Capability::KeyPairs);
    ListVolumes "list_volumes" Some(Capability::Volumes);
    CreateVolume "create_volume" Some(Capability::Volumes);
    AttachVolume "attach_volume" Some(Capability::Volumes);
    DetachVolume "detach_volume" Some(Capability::Volumes);
    DestroyVolume "destroy_volume" Some(Capability::Volumes);
    ListVolumeSnapshots "list_volume_snapshots" Some(Capability::VolumeSnapshots);
    CreateVolumeSnapshot "create_volume_snapshot" Some(Capability::VolumeSnapshots);
    DestroyVolumeSnapshot "destroy_volume_snapshot" Some(Capability::VolumeSnapshots);
}

impl CloudCall {
    /// Whether it only reads: repeating it changes nothing.
    pub const fn reads(self) -> bool {
        matches!(
            self,
            Self::ListNodes
                | Self::ListSizes
                | Self::ListImages
                | Self::GetImage
                | Self::ListLocations
                | Self::ListKeyPairs
                | Self::GetKeyPair
                | Self::ListVolumes
                | Self::ListVolumeSnapshots
        )
    }

    /// Whether it makes something: repeating it may make a second one.
    pub const fn creates(self) -> bool {
        matches!(
            self,
            Self::CreateNode
                | Self::CreateImage
                | Self::CreateKeyPair
                | Self::ImportKeyPair
                | Self::CreateVolume
                | Self::CreateVolumeSnapshot
        )
    }
}

impl fmt::Display for CloudCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
