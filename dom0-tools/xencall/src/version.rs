//! What the hypervisor says about itself.

use xen_abi::version::{
    XEN_CAPABILITIES_INFO_LEN, XEN_CHANGESET_INFO_LEN, XEN_EXTRAVERSION_LEN, XENVER_build_id,
    XENVER_capabilities, XENVER_changeset, XENVER_commandline, XENVER_compile_info,
    XENVER_extraversion, XENVER_pagesize, XENVER_platform_parameters, XENVER_version, XenBuildId,
    XenCompileInfo, XenPlatformParameters,
};
use xen_abi::xen::__HYPERVISOR_xen_version;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::error::{Errno, Result};
use crate::xen::{Call, Xen};

/// Longer build ids are not asked for: linkers write 8 to 32 bytes.
const LONGEST_BUILD_ID: usize = 64;

/// Version, origin and abilities of the hypervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XenVersion {
    /// Major version of the ABI.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// What follows them.
    pub extra: String,
    /// Source revision.
    pub changeset: String,
    /// Kinds of guests, separated by spaces.
    pub capabilities: String,
    /// Page size in bytes.
    pub page_size: u32,
    /// Where the hypervisor begins in PV guests' address spaces.
    pub virt_start: u64,
    /// Its command line.
    pub command_line: String,
    /// What tells its image from every other: a hash by the linker, empty when there is none.
    pub build_id: Vec<u8>,
    /// Compiler, by whom, where, when.
    pub compile: [String; 4],
}

/// Text up to the first zero byte.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

const fn call(name: &'static str, command: u32) -> Call {
    Call {
        name,
        number: __HYPERVISOR_xen_version,
        command: Some(command as u64),
        domain: None,
    }
}

impl Xen {
    fn version_op<T: FromBytes + IntoBytes + Immutable>(
        &self,
        name: &'static str,
        command: u32,
    ) -> Result<T> {
        let mut argument = T::new_zeroed();
        self.call(call(name, command), &mut argument, &mut [])?;
        Ok(argument)
    }

    /// The bytes that tell the hypervisor's image from every other; none when it has no such note.
    fn build_id(&self) -> Result<Vec<u8>> {
        #[derive(FromBytes, IntoBytes, Immutable)]
        #[repr(C)]
        struct Argument {
            head: XenBuildId,
            bytes: [u8; LONGEST_BUILD_ID],
        }
        let mut argument = Argument::new_zeroed();
        argument.head.len = LONGEST_BUILD_ID as u32;
        let call = call("XENVER_build_id", XENVER_build_id);
        match self.call(call, &mut argument, &mut []) {
            Ok(len) => {
                let len = (len as usize).min(LONGEST_BUILD_ID);
                Ok(argument.bytes[..len].to_vec())
            }
            Err(error) if error.errno() == Errno::NODATA || error.is_unsupported() => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// When this does not run under Xen.
    pub fn version(&self) -> Result<XenVersion> {
        let version = self.call_plain(call("XENVER_version", XENVER_version), [0; 2])?;
        let extra: [u8; XEN_EXTRAVERSION_LEN as usize] =
            self.version_op("XENVER_extraversion", XENVER_extraversion)?;
        let changeset: [u8; XEN_CHANGESET_INFO_LEN as usize] =
            self.version_op("XENVER_changeset", XENVER_changeset)?;
        let capabilities: [u8; XEN_CAPABILITIES_INFO_LEN as usize] =
            self.version_op("XENVER_capabilities", XENVER_capabilities)?;
        let platform: XenPlatformParameters =
            self.version_op("XENVER_platform_parameters", XENVER_platform_parameters)?;
        let command_line: [u8; 1024] = self.version_op("XENVER_commandline", XENVER_commandline)?;
        let compile: XenCompileInfo =
            self.version_op("XENVER_compile_info", XENVER_compile_info)?;
        Ok(XenVersion {
            major: version >> 16,
            minor: version & 0xffff,
            extra: text(&extra),
            changeset: text(&changeset),
            capabilities: text(&capabilities),
            page_size: self.call_plain(call("XENVER_pagesize", XENVER_pagesize), [0; 2])?,
            virt_start: platform.virt_start,
            command_line: text(&command_line),
            build_id: self.build_id()?,
            compile: [
                text(&compile.compiler),
                text(&compile.compile_by),
                text(&compile.compile_domain),
                text(&compile.compile_date),
            ],
        })
    }
}
