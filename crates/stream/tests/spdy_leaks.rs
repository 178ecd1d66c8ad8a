//! What sessions leave behind, and what an idle one costs, counted over the whole process: so this is one
//! test in a program of its own, with a client that knows SPDY's bytes by itself.

#[cfg(test)]
mod tests {
    use std::{
        future::{Future, pending},
        io::{Read as _, Write as _},
        net::{SocketAddr, TcpStream as Client},
        path::Path,
        pin::Pin,
        sync::Arc,
    };
    use stream::{
        Attach, Backend, BackendError, Control, Count, Ended, Exec, Forward, Process, Settings, Size,
        Streams, Ticket, Tokens, serve,
    };
    use tokio::{
        io::AsyncWriteExt as _,
        net::{
            TcpListener, TcpStream,
            unix::pipe::{Receiver, Sender, pipe},
        },
        runtime::Runtime,
    };

    /// Processes that say a word and end, or that do nothing for ever.
    #[derive(Clone)]
    struct Fake;

    /// The process's ends of its streams.
    struct Held {
        _streams: (Option<Receiver>, Option<Sender>, Option<Sender>),
        stays: bool,
    }

    impl Control for Held {
        fn resize(&self, _: Size) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(async {})
        }
        fn input_ended(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(async {})
        }
        fn wait(&self) -> Pin<Box<dyn Future<Output = Result<Ended, BackendError>> + Send + '_>> {
            Box::pin(async { if self.stays { pending().await } else { Ok(Ended::Code(0)) } })
        }
    }

    impl Backend for Fake {
        async fn exec(&self, exec: &Exec) -> Result<Process, BackendError> {
            let end = |wanted: bool| wanted.then(|| pipe().expect("a pipe")).unzip();
            let (stdin, input) = end(exec.streams.stdin);
            let (mut output, stdout) = end(exec.streams.stdout);
            let (errors, stderr) = end(exec.streams.stderr);
            let stays = exec.command[0] == "stay";
            let streams = if stays {
                (input, output, errors)
            } else {
                output.as_mut().expect("stdout").write_all(b"hi").await.expect("room");
                (None, None, None)
            };
            Ok(Process { stdin, stdout, stderr, control: Box::new(Held { _streams: streams, stays }) })
        }

        async fn attach(&self, _: &Attach) -> Result<Process, BackendError> {
            Err(BackendError("nothing to attach to".to_owned()))
        }

        async fn dial(&self, _: Option<&Path>, port: u16) -> Result<TcpStream, BackendError> {
            TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| BackendError(error.to_string()))
        }
    }

    struct Rig {
        address: SocketAddr,
        tokens: Arc<Tokens>,
        count: Count,
        runtime: Runtime,
    }

    impl Rig {
        fn new() -> Rig {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            let runtime = runtime.expect("a runtime");
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
            let address = listener.local_addr().expect("an address");
            let (tokens, count) = (Arc::<Tokens>::default(), Count::default());
            let (given, counting) = (Arc::clone(&tokens), count.clone());
            runtime.spawn(serve(listener, None, given, Fake, Settings::default(), counting, pending()));
            Rig { address, tokens, count, runtime }
        }

        fn exec(&self, command: &str) -> Client {
            let streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
            let exec = Exec {
                shim: "/s".into(),
                bundle: "/b".into(),
                container: "c".to_owned(),
                command: vec![command.to_owned()],
                streams,
            };
            let token = self.tokens.grant(Ticket::Exec(exec)).expect("room");
            let mut client = self.upgraded(&format!("/exec/{token}"), "v4.channel.k8s.io");
            let mut frames = Vec::new();
            for (number, kind) in ["error", "stdin", "stdout", "stderr"].into_iter().enumerate() {
                let id = 2 * u8::try_from(number).expect("small") + 1;
                frames.extend(syn_stream(id, number == 0, &[("streamtype", kind)]));
            }
            client.write_all(&frames).expect("write");
            client
        }

        /// A session to its last word.
        fn whole(&self) -> Client {
            let mut client = self.exec("word");
            read_until(&mut client, b"\"Success\"}");
            client
        }

        /// A session whose process does nothing.
        fn idle(&self) -> Client {
            let mut client = self.exec("stay");
            // A ping comes back when the streams before it are open.
            let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
            client.write_all(&ping).expect("write");
            read_until(&mut client, &ping);
            client
        }

        /// A port-forward without a connection.
        fn forward(&self) -> Client {
            let forward = Forward { netns: None, ports: Vec::new() };
            let token = self.tokens.grant(Ticket::Forward(forward)).expect("room");
            let mut client = self.upgraded(&format!("/portforward/{token}"), "portforward.k8s.io");
            client.write_all(&syn_stream(1, true, &[("streamtype", "nothing")])).expect("write");
            // Its reset.
            read_until(&mut client, &[0x80, 3, 0, 3]);
            client
        }

        fn upgraded(&self, path: &str, version: &str) -> Client {
            let mut client = Client::connect(self.address).expect("connect");
            client.set_nodelay(true).expect("no delay");
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                 X-Stream-Protocol-Version: {version}\r\n\r\n"
            );
            client.write_all(request.as_bytes()).expect("write");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).expect("read");
                head.push(byte[0]);
            }
            assert!(head.starts_with(b"HTTP/1.1 101 "));
            client
        }

        /// Tasks and descriptors when there is nothing to do.
        fn counted(&self) -> (usize, usize) {
            // The count of sessions goes down a moment before the last task is gone.
            while self.count.now() > 0 || self.runtime.metrics().num_alive_tasks() > 1 {
                std::thread::yield_now();
            }
            (self.runtime.metrics().num_alive_tasks(), descriptors())
        }

        /// So many more clients of one kind, and how much memory each costs.
        fn each(&self, many: usize, begin: impl Fn(&Rig) -> Client) -> (Vec<Client>, usize) {
            let (before, sessions) = (resident(), self.count.now());
            let clients: Vec<Client> = (0..many).map(|_| begin(self)).collect();
            assert_eq!(self.count.now(), sessions + many);
            (clients, resident().saturating_sub(before) / many)
        }
    }

    /// A new stream, its headers in a stored block.
    fn syn_stream(id: u8, first: bool, headers: &[(&str, &str)]) -> Vec<u8> {
        let number = |length: usize| u32::try_from(length).expect("short").to_be_bytes();
        let mut content = number(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            content.extend(number(text.len()));
            content.extend(text.bytes());
        }
        let mut block = if first { vec![0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2] } else { Vec::new() };
        let length = u16::try_from(content.len()).expect("short");
        block.push(0);
        block.extend(length.to_le_bytes());
        block.extend((!length).to_le_bytes());
        block.extend(content);
        let mut frame = vec![0x80, 3, 0, 1];
        frame.extend(number(block.len() + 10));
        frame.extend([0, 0, 0, id, 0, 0, 0, 0, 0, 0]);
        frame.extend(block);
        frame
    }

    /// Reads what the server says until this comes.
    fn read_until(client: &mut Client, wanted: &[u8]) {
        let mut all = Vec::new();
        while !all.windows(wanted.len()).any(|window| window == wanted) {
            let mut buffer = [0; 4096];
            let read = client.read(&mut buffer).expect("read");
            assert!(read > 0, "it ended with {:?}", String::from_utf8_lossy(&all));
            all.extend_from_slice(&buffer[..read]);
        }
    }

    fn descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").expect("procfs").count()
    }

    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
    }

    #[test]
    fn sessions_leave_nothing_behind_and_idle_ones_cost_little() {
        let rig = Rig::new();
        // First, while no memory of earlier ones can be used again. 60 kB are for all of our processes.
        let ((execs, exec), (forwards, forward)) = (rig.each(300, Rig::idle), rig.each(300, Rig::forward));
        drop((execs, forwards));
        assert!(exec < 40_000, "an idle exec costs {exec} bytes");
        assert!(forward < 60_000, "an idle port-forward costs {forward} bytes");

        let round = || drop((rig.whole(), rig.idle(), rig.forward()));
        (0..200).for_each(|_| round());
        let (before, memory) = (rig.counted(), resident());
        (0..2000).for_each(|_| round());
        assert_eq!(rig.counted(), before, "tasks and descriptors");
        let grown = resident().saturating_sub(memory);
        assert!(grown < 2 << 20, "{grown} bytes more after 6000 sessions");
    }
}
