//! A gRPC status in words.

/// Code and message of a gRPC status, without its debug form.
pub(crate) fn status_text(status: &tonic::Status) -> String {
    if status.message().is_empty() {
        format!("{:?}", status.code())
    } else {
        format!("{:?}: {}", status.code(), status.message())
    }
}
