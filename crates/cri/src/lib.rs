//! The CRI services: requests to domain, answers, gRPC codes.
