//! Does an answer of AWS say that calls come too fast? In each of its protocols the code stands elsewhere.

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use deputy_task::json::Bound;

/// The codes that the AWS SDKs take for throttling
/// (<https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html>).
const CODES: [&str; 14] = [
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottledException",
    "TooManyRequestsException",
    "ProvisionedThroughputExceededException",
    "TransactionInProgressException",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "LimitExceededException",
    "RequestThrottled",
    "SlowDown",
    "PriorRequestNotComplete",
    "EC2ThrottledException",
];

pub(crate) fn is_throttling(response: &HttpResponse) -> bool {
    let status = response.status().as_u16();
    if status < 400 {
        return false;
    }
    if status == 429 {
        return true;
    }
    let named = response.headers().get("x-amzn-errortype").map(bare).map(str::to_owned);
    let code = named.or_else(|| response.body().bytes().and_then(code_in));
    code.is_some_and(|code| is_throttling_code(&code))
}

/// Does this code say it?
pub(crate) fn is_throttling_code(code: &str) -> bool {
    CODES.contains(&code)
}

/// Errors of AWS say a few words; what has more values was written by somebody else.
const ERROR_BOUND: Bound = Bound {
    values: 1000,
    depth: 32,
};

/// The code in a body: `__type` or `code` in JSON, `<Code>` in XML.
fn code_in(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    if let Ok(value) = ERROR_BOUND.read::<serde_json::Value>(body) {
        let code = ["__type", "code", "Code"].iter().find_map(|key| value[*key].as_str());
        return code.map(|code| bare(code).to_owned());
    }
    let (_, rest) = text.split_once("<Code>")?;
    Some(rest.split_once("</Code>")?.0.trim().to_owned())
}

/// `aws.protocoltests#Throttling:http://…` is `Throttling`.
fn bare(code: &str) -> &str {
    let code = code.split(':').next().unwrap_or(code);
    code.rsplit('#').next().unwrap_or(code).trim()
}

#[cfg(test)]
mod tests {
    use aws_smithy_runtime_api::http::StatusCode;
    use aws_smithy_types::body::SdkBody;

    use super::*;

    fn answer(status: u16, header: Option<&'static str>, body: &'static str) -> bool {
        let status = StatusCode::try_from(status).expect("a status");
        let mut response = HttpResponse::new(status, SdkBody::from(body));
        if let Some(header) = header {
            response.headers_mut().insert("x-amzn-errortype", header);
        }
        is_throttling(&response)
    }

    #[test]
    fn throttling_is_recognized_in_every_protocol_and_nothing_else_is() {
        assert!(answer(
            400,
            None,
            r#"{"__type":"com.amazonaws.ecs#ThrottlingException","message":"Rate exceeded"}"#
        ));
        assert!(answer(
            400,
            Some("ThrottlingException:http://internal.amazon.com/"),
            "{}"
        ));
        assert!(answer(
            400,
            None,
            "<ErrorResponse><Error><Type>Sender</Type><Code>Throttling</Code><Message>Rate exceeded</Message></Error></ErrorResponse>"
        ));
        assert!(answer(
            503,
            None,
            "<Response><Errors><Error><Code>RequestLimitExceeded</Code></Error></Errors></Response>"
        ));
        assert!(answer(429, None, ""));
        assert!(!answer(400, None, r#"{"__type":"AccessDeniedException"}"#));
        assert!(!answer(503, None, "unavailable"));
        assert!(!answer(200, None, r#"{"__type":"ThrottlingException"}"#));
    }
}
