//! The appliance: what is on its disk, how it is made, and its first process.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`compose`] | what goes into an image, and the short way to boot it in an emulator |
//! | [`disk`] | the bootable disk |
//! | [`cpio`], [`uki`], [`modules`], [`kernel`], [`tools`] | the pieces of both |
//! | [`boot`] | process 1 |
//! | [`numa`] | on which memory node do pages lie |
//! | [`probe`] | programs that say inside a guest what is true there |
//!
//! Sees nothing else of Ringpost: it packs finished programs.

pub mod boot;
pub mod compose;
pub mod cpio;
pub mod disk;
pub mod kernel;
pub mod modules;
pub mod numa;
pub mod probe;
pub mod sys;
pub mod tools;
pub mod uki;
