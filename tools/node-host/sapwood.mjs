// Sapwood's core as a WASI module: the functions of src/wasi/ABI.md as a class.
//
// It owns the module's memory and the numbers of connections. It knows no sockets: what the core has to say goes to the
// functions that a connection was opened with. Start at `Broker.load`.

import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { WASI } from "node:wasi";

/** What may be spoken on a connection, by the name of its WebSocket sub-protocol. */
export const SUB_PROTOCOLS = new Map([
  ["sapwood.text", 0],
  ["sapwood.json", 1],
  ["sapwood.native", 2],
]);

const ABI = 1;
const TEXT = 1;
const BINARY = 2;
const CLOSE = 8;
const RECORD_HEAD_BYTES = 9;

/** A broker without sockets. */
export class Broker {
  #exports;
  #connections = new Map();
  #free = [];
  #next = 0;
  #timer = null;
  #isTaking = false;

  /**
   * Loads the module and starts an empty broker.
   * @param {string} path The module's file.
   * @param {{password?: string, user?: string, broadcast?: boolean, run?: string}} settings
   */
  static async load(path, settings = {}) {
    const wasi = new WASI({ version: "preview1" });
    const module = await WebAssembly.compile(await readFile(path));
    const instance = await WebAssembly.instantiate(module, wasi.getImportObject());
    wasi.initialize(instance);
    return new Broker(instance.exports, settings);
  }

  constructor(exports, settings) {
    this.#exports = exports;
    if (exports.sapwood_abi() !== ABI) {
      throw new Error(`this host speaks version ${ABI} of the functions, the module ${exports.sapwood_abi()}`);
    }
    this.#fill(Buffer.from(JSON.stringify({ run: randomBytes(20).toString("hex"), ...settings })));
    const seed = randomBytes(8).readBigUInt64LE();
    if (exports.sapwood_start(seed, BigInt(Date.now())) !== 0) {
      const length = exports.sapwood_output_length();
      throw new Error(this.#bytes(exports.sapwood_output(), length).toString());
    }
    this.#tellTime();
  }

  /** Bytes of the module's memory, which grows and never shrinks. */
  get memoryBytes() {
    return this.#exports.memory.buffer.byteLength;
  }

  /** Connections that are open. */
  get size() {
    return this.#connections.size;
  }

  /**
   * Opens a connection.
   * @param {number} spoken A value of `SUB_PROTOCOLS`.
   * @param {boolean} isKnown Whether the host has proved who the client is.
   * @param {{send(payload: Buffer, isText: boolean): void, close(code: number, reason: string): void}} peer
   * @returns {number} Its number, for the other calls.
   */
  open(spoken, isKnown, peer) {
    const number = this.#free.pop() ?? this.#next++;
    this.#tellTime();
    this.#check(this.#exports.sapwood_open(number, spoken, isKnown ? 1 : 0));
    this.#connections.set(number, peer);
    this.#deliver();
    return number;
  }

  /** Takes a client's message. */
  message(number, payload, isText) {
    if (!this.#connections.has(number)) {
      return;
    }
    this.#fill(payload);
    this.#tellTime();
    this.#check(this.#exports.sapwood_message(number, isText ? 1 : 0));
    this.#deliver();
  }

  /** Says whether a connection takes more: what it does not take waits in the module, up to the module's cap. */
  setReady(number, isReady) {
    if (this.#connections.has(number)) {
      this.#check(this.#exports.sapwood_ready(number, isReady ? 1 : 0));
      this.#deliver();
    }
  }

  /** Says that a connection is gone. */
  close(number) {
    if (this.#connections.delete(number)) {
      this.#tellTime();
      this.#check(this.#exports.sapwood_close(number));
      this.#free.push(number);
      this.#deliver();
    }
  }

  /** Ends what would keep the process alive. */
  end() {
    clearTimeout(this.#timer);
  }

  #check(outcome) {
    if (outcome < 0) {
      throw new Error(`the module refused a call: ${outcome}`);
    }
  }

  // The memory may have grown and moved with each call, so views of it are never kept.
  #bytes(pointer, length) {
    return Buffer.from(this.#exports.memory.buffer, pointer, length);
  }

  #fill(payload) {
    const pointer = this.#exports.sapwood_buffer(payload.length);
    if (pointer < 0) {
      throw new Error(`a message of ${payload.length} bytes is too long`);
    }
    payload.copy(this.#bytes(pointer, payload.length));
  }

  #tellTime() {
    this.#exports.sapwood_time(process.hrtime.bigint(), BigInt(Date.now()));
  }

  // What the core has to say, until it has nothing more. A peer may call back into this broker meanwhile: what that
  // brings about is delivered by the round that is under way.
  #deliver() {
    if (this.#isTaking) {
      return;
    }
    this.#isTaking = true;
    try {
      for (;;) {
        const length = this.#exports.sapwood_take();
        this.#check(length);
        if (length === 0) {
          break;
        }
        // Copied as a whole: sockets keep what they are given.
        const records = Buffer.from(this.#bytes(this.#exports.sapwood_output(), length));
        this.#hand(records);
      }
    } finally {
      this.#isTaking = false;
    }
    this.#schedule();
  }

  #hand(records) {
    for (let at = 0; at < records.length; ) {
      const peer = this.#connections.get(records.readUInt32LE(at));
      const opcode = records[at + 4];
      const start = at + RECORD_HEAD_BYTES;
      at = start + records.readUInt32LE(at + 5);
      const payload = records.subarray(start, at);
      if (peer === undefined) {
        continue;
      }
      if (opcode === TEXT || opcode === BINARY) {
        peer.send(payload, opcode === TEXT);
      } else if (opcode === CLOSE) {
        const code = payload.length >= 2 ? payload.readUInt16BE(0) : 1000;
        peer.close(code, payload.subarray(2).toString());
      }
    }
  }

  #schedule() {
    clearTimeout(this.#timer);
    const due = this.#exports.sapwood_due();
    if (due >= 0) {
      this.#timer = setTimeout(() => {
        this.#tellTime();
        this.#deliver();
      }, Math.min(due, 0x7fffffff));
    }
  }
}
