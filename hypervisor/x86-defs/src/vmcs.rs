//! VMCS field encodings and control bits (Intel SDM volume 3, appendix B).
