//! Pod network: namespaces, CNI configuration, built-in and foreign plugins.
