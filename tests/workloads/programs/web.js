// An HTTP server of Node.js and its clients in one process, with what the runtime has besides:
// web.js DIRECTORY
//
// Timers, worker threads, children, streams with compression and digests, file watching. Anything
// that is not as it should be ends the process with an error.
'use strict';
const assert = require('assert');
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const path = require('path');
const zlib = require('zlib');
const { execFile } = require('child_process');
const { Worker } = require('worker_threads');

const directory = process.argv[2];
let stopping = false;
const counts = { requests: 0, ticks: 0, digests: 0, children: 0, files: 0 };

process.on('unhandledRejection', (error) => {
  console.error(error);
  process.exit(1);
});

const sha = (data) => crypto.createHash('sha256').update(data).digest('hex');
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const server = http.createServer((request, response) => {
  if (request.url === '/digest') {
    const hash = crypto.createHash('sha256');
    request.on('data', (chunk) => hash.update(chunk));
    request.on('end', () => response.end(hash.digest('hex')));
  } else if (request.url === '/gzip') {
    response.setHeader('Content-Encoding', 'gzip');
    request.pipe(zlib.createGzip()).pipe(response);
  } else {
    // Piece by piece, with timers in between.
    let n = 0;
    const timer = setInterval(() => {
      response.write(`line ${n}\n`);
      if (++n === 20) {
        clearInterval(timer);
        response.end();
      }
    }, 2);
  }
});
server.keepAliveTimeout = 60000;

function ask(agent, url, body) {
  return new Promise((resolve, reject) => {
    const options = { port: server.address().port, host: '127.0.0.1', path: url, agent, method: 'POST' };
    const request = http.request(options, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part));
      response.on('end', () => resolve(Buffer.concat(parts)));
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(body);
  });
}

async function client(number) {
  const agent = new http.Agent({ keepAlive: number % 2 === 0 });
  while (!stopping) {
    const body = crypto.randomBytes(1 + ((number * 7919 + counts.requests * 131) % 200000));
    assert.strictEqual((await ask(agent, '/digest', body)).toString(), sha(body));
    assert.ok(zlib.gunzipSync(await ask(agent, '/gzip', body)).equals(body));
    const lines = (await ask(agent, '/slow', '')).toString().trim().split('\n');
    assert.strictEqual(lines.length, 20);
    counts.requests += 3;
  }
  agent.destroy();
}

async function timers() {
  while (!stopping) {
    const began = process.hrtime.bigint();
    await pause(3);
    assert.ok(process.hrtime.bigint() - began >= 2000000n, 'a timer was early');
    counts.ticks++;
  }
}

async function workers() {
  const code = `
    const { parentPort } = require('worker_threads');
    const crypto = require('crypto');
    parentPort.on('message', (n) => {
      let value = Buffer.from(String(n));
      for (let i = 0; i < 200; i++) value = crypto.createHash('sha256').update(value).digest();
      parentPort.postMessage([n, value.toString('hex')]);
    });`;
  const worker = new Worker(code, { eval: true });
  for (let n = 0; !stopping; n++) {
    worker.postMessage(n);
    const [got, digest] = await new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    assert.strictEqual(got, n);
    assert.strictEqual(digest.length, 64);
    counts.digests++;
  }
  await worker.terminate();
}

async function children() {
  for (let n = 0; !stopping; n++) {
    const said = await new Promise((resolve, reject) => {
      const child = execFile('/bin/cat', (error, out) => (error ? reject(error) : resolve(out)));
      child.stdin.end(`number ${n}`);
    });
    assert.strictEqual(said, `number ${n}`);
    counts.children++;
  }
}

async function files() {
  // The thread pool of libuv.
  for (let n = 0; !stopping; n++) {
    const name = path.join(directory, `file-${n % 10}`);
    const text = `${n} `.repeat(5000);
    await fs.promises.writeFile(name, text);
    assert.strictEqual(await fs.promises.readFile(name, 'utf8'), text);
    const [key, again] = await Promise.all(
      [1, 2].map(() => new Promise((resolve, reject) => crypto.pbkdf2(text, 'salt', 20, 32, 'sha256',
        (error, derived) => (error ? reject(error) : resolve(derived))))));
    assert.ok(key.equals(again));
    counts.files++;
  }
}

server.listen(0, '127.0.0.1', async () => {
  const all = [client(0), client(1), client(2), client(3), timers(), workers(), children(), files()];
  while (counts.requests < 10 || counts.children < 2) await pause(10);
  fs.writeFileSync(path.join(directory, 'ready'), '');
  while (!fs.existsSync(path.join(directory, 'stop'))) await pause(10);
  stopping = true;
  await Promise.all(all);
  await new Promise((resolve) => server.close(resolve));
  fs.writeFileSync(path.join(directory, 'done'), `${counts.requests} requests ${JSON.stringify(counts)}`);
});
