//! sysimage
