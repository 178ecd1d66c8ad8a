//! Websocket clients that vanish after any byte, from the request's first on: in a process of its own, so
//! that descriptors can be counted.

#[cfg(test)]
mod tests {
    use std::{future::Future, path::Path, pin::Pin, sync::Arc, time::Duration};
    use stream::{
        Attach, Backend, BackendError, Control, Count, Ended, Exec, Forward, Process, Settings, Size,
        Streams, Ticket, Tokens, client, serve,
    };
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{
            TcpListener, TcpStream,
            unix::pipe::{Receiver, Sender, pipe},
        },
        runtime::Handle,
        sync::Notify,
        time::timeout,
    };

    /// Processes that give back what they get.
    #[derive(Clone)]
    struct Echo;

    struct Ending(Arc<Notify>);

    impl Control for Ending {
        fn resize(&self, _: Size) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(async {})
        }
        fn input_ended(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(async {})
        }
        fn wait(&self) -> Pin<Box<dyn Future<Output = Result<Ended, BackendError>> + Send + '_>> {
            Box::pin(async {
                self.0.notified().await;
                Ok(Ended::Code(0))
            })
        }
    }

    async fn echo(mut input: Receiver, mut output: Sender, ended: Arc<Notify>) {
        // Either end of it may go.
        let _ = tokio::io::copy(&mut input, &mut output).await;
        ended.notify_one();
    }

    impl Backend for Echo {
        async fn exec(&self, exec: &Exec) -> Result<Process, BackendError> {
            if exec.command == ["missing"] {
                return Err(BackendError("missing".to_owned()));
            }
            let ((stdin, input), (output, stdout)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
            let ended = Arc::new(Notify::new());
            tokio::spawn(echo(input, output, Arc::clone(&ended)));
            let control = Box::new(Ending(ended));
            Ok(Process { stdin: Some(stdin), stdout: Some(stdout), stderr: None, control })
        }

        async fn attach(&self, _: &Attach) -> Result<Process, BackendError> {
            Err(BackendError("there is no container".to_owned()))
        }

        async fn dial(&self, _: Option<&Path>, port: u16) -> Result<TcpStream, BackendError> {
            TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| BackendError(error.to_string()))
        }
    }

    fn exec(command: &str) -> Ticket {
        let streams = Streams { stdin: true, stdout: true, stderr: false, tty: false };
        Ticket::Exec(Exec {
            shim: "/shim".into(),
            bundle: "/bundle".into(),
            container: "c".to_owned(),
            command: vec![command.to_owned()],
            streams,
        })
    }

    /// A small session, from its request to its goodbye; all masks are zero.
    fn script(kind: &str, token: &str, protocol: &str) -> Vec<u8> {
        let request = format!(
            "GET /{kind}/{token} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             sec-websocket-protocol: {protocol}\r\n\r\n"
        );
        let frames: [&[u8]; 6] = [
            b"\x82\x85\0\0\0\0\0abcd",
            b"\x89\x81\0\0\0\0?",
            b"\x02\x82\0\0\0\0\0x",
            b"\x80\x81\0\0\0\0y",
            b"\x82\x82\0\0\0\0\xff\0",
            b"\x88\x82\0\0\0\0\x03\xe8",
        ];
        [request.as_bytes(), &frames.concat()].concat()
    }

    struct Server {
        address: String,
        tokens: Arc<Tokens>,
        count: Count,
        echo: u16,
    }

    impl Server {
        /// Serves as long as the runtime lives, and what it forwards to echoes, too.
        async fn start() -> Server {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            let address = listener.local_addr().expect("an address").to_string();
            let (tokens, count) = (Arc::new(Tokens::default()), Count::default());
            let never = std::future::pending();
            tokio::spawn(serve(
                listener,
                None,
                Arc::clone(&tokens),
                Echo,
                Settings::default(),
                count.clone(),
                never,
            ));
            let pods = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            let echo = pods.local_addr().expect("an address").port();
            tokio::spawn(async move {
                loop {
                    let (pod, _) = pods.accept().await.expect("accepted");
                    let (mut read, mut write) = pod.into_split();
                    tokio::spawn(async move { tokio::io::copy(&mut read, &mut write).await });
                }
            });
            Server { address, tokens, count, echo }
        }

        fn url(&self, kind: &str, ticket: Ticket) -> String {
            let token = self.tokens.grant(ticket).expect("a token");
            format!("http://{}/{kind}/{token}", self.address)
        }

        fn forward(&self) -> Ticket {
            Ticket::Forward(Forward { netns: None, ports: vec![self.echo, 0] })
        }

        /// A client that goes after each byte, and one that hears what was said before it goes.
        async fn vanish(&self, kind: &str, protocol: &str, ticket: impl Fn() -> Ticket) {
            let length = script(kind, &self.tokens.grant(ticket()).expect("a token"), protocol).len();
            for cut in 0..=length {
                let token = self.tokens.grant(ticket()).expect("a token");
                let mut client = TcpStream::connect(&self.address).await.expect("connected");
                client.write_all(&script(kind, &token, protocol)[..cut]).await.expect("sent");
                if cut % 2 == 0 {
                    client.shutdown().await.expect("half-closed");
                    // A reset is an end, too.
                    let _ = client.read_to_end(&mut Vec::new()).await;
                }
                drop(client);
                // Tokens that were not used are few.
                let kind = ticket().kind();
                let _unused = self.tokens.take(kind, &token);
            }
        }

        /// Sessions that come to their end.
        async fn whole(&self) {
            for command in ["echo", "missing"] {
                let url = self.url("exec", exec(command));
                let client::Remote { input, mut output } =
                    client::remote(&url, &client::Authorities::System).await.expect("a session");
                // A missing command takes no input.
                let _ = input.write(b"x").await;
                let _ = input.end().await;
                while !matches!(output.next().await, client::Said::End(_)) {}
            }
        }
    }

    const IDLE: usize = 300;

    impl Server {
        /// Bytes that a session costs of which nothing is heard but its beginning.
        async fn idle(
            &self,
            kind: &str,
            protocol: &str,
            ticket: impl Fn() -> Ticket,
        ) -> (Vec<TcpStream>, usize) {
            let before = resident();
            let mut clients = Vec::with_capacity(IDLE);
            for _ in 0..IDLE {
                let token = self.tokens.grant(ticket()).expect("a token");
                let script = script(kind, &token, protocol);
                let end = script.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
                let mut client = TcpStream::connect(&self.address).await.expect("connected");
                // The request, and a first message.
                client.write_all(&script[..end + 11]).await.expect("sent");
                clients.push(client);
            }
            for client in &mut clients {
                // What the server says first: the answer, and what comes back.
                let mut heard = Vec::new();
                while !heard.ends_with(b"abcd") {
                    heard.push(client.read_u8().await.expect("a byte"));
                }
            }
            let cost = resident().saturating_sub(before) / IDLE;
            (clients, cost)
        }
    }

    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
    }

    fn descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").expect("procfs").count()
    }

    #[tokio::test]
    async fn idle_clients_cost_little_and_those_that_vanish_leave_nothing() {
        let server = Server::start().await;
        // The first session of all sets up what stays.
        server.whole().await;
        let quiet = async |expected: (usize, usize)| {
            let same = async {
                while server.count.now() > 0
                    || Handle::current().metrics().num_alive_tasks() != expected.0
                    || descriptors() != expected.1
                {
                    tokio::task::yield_now().await;
                }
            };
            let left = (Handle::current().metrics().num_alive_tasks(), descriptors());
            timeout(Duration::from_secs(30), same).await.map_err(|_| left).expect("as before");
        };
        // While no memory of earlier ones can be used again. 60 kB are for all of our processes; the other
        // ends, which are in this one, cost 20 of them.
        let (execs, exec_cost) = server.idle("exec", "v5.channel.k8s.io", || exec("echo")).await;
        let (forwards, forward_cost) =
            server.idle("portforward", "v5.channel.k8s.io", || server.forward()).await;
        drop((execs, forwards));
        assert!(exec_cost < 60_000, "an idle exec costs {exec_cost} bytes");
        assert!(forward_cost < 60_000, "an idle port-forward costs {forward_cost} bytes");
        // The server, the pods, and their listeners.
        let sessions = async {
            while server.count.now() > 0 || Handle::current().metrics().num_alive_tasks() > 2 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), sessions).await.expect("the first sessions end");
        let before = (Handle::current().metrics().num_alive_tasks(), descriptors());
        for protocol in ["v5.channel.k8s.io", "channel.k8s.io"] {
            server.vanish("exec", protocol, || exec("echo")).await;
            server.vanish("exec", protocol, || exec("missing")).await;
        }
        for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io"] {
            server.vanish("portforward", protocol, || server.forward()).await;
        }
        server.vanish("portforward", "SPDY/3.1+portforward.k8s.io", || server.forward()).await;
        server.whole().await;
        quiet(before).await;
    }
}
