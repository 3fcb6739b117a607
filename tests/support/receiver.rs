//! Whoever takes OpenTelemetry spans: a tonic server with OpenTelemetry's own service.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// Keeps what it is sent, unless it refuses all.
#[derive(Clone, Default)]
pub struct Receiver {
    pub heard: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    pub refuses: bool,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.heard.lock().expect("nobody panics with it").push(request.into_inner());
        let refused = ExportTracePartialSuccess { rejected_spans: 3, error_message: "too old".to_owned() };
        Ok(Response::new(ExportTraceServiceResponse { partial_success: self.refuses.then_some(refused) }))
    }
}

/// Starts it, and gives where it is.
pub async fn listen(receiver: &Receiver) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
    let address = listener.local_addr().expect("it is bound");
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(receiver.clone()));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    format!("http://{address}")
}
