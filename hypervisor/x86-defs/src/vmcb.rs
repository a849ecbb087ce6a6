//! The SVM control block (AMD APM volume 2, appendix B).
