//! AMD SVM with nested paging.
