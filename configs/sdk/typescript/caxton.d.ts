// Types of caxton.js.
export interface Message {
  id: string;
  performative: string;
  sender: string;
  conversation_id: string;
  content: unknown;
}

export interface Outgoing {
  performative: string;
  content: unknown;
  receiver?: string;
  capability?: string;
  topic?: string;
}

export interface Agent {
  offers?: string[];
  handle(message: Message): unknown;
  timer?(number: number): void;
}

export interface Exports {
  start(): void;
  handleMessage(text: string): void;
  handleTimer(number: number): void;
  capabilities(): string[];
  stop(): void;
}

export class Refused extends Error {}
export class NotDone extends Error {}
export function agent(agent: Agent): Exports;
export function send(message: Outgoing): void;
export function log(text: string): void;
export function logError(text: string): void;
export function nowUs(): number;
export function random(): number;
export function store(key: string, value: string): void;
export function load(key: string): string | undefined;
export function remove(key: string): boolean;
export function setTimer(number: number, delayUs: number): void;
export function cancelTimer(number: number): boolean;
export function search(query: string, limit?: number): string[];
export function remember(text: string): string;
export function callTool(name: string, given?: object): unknown;
export function parameter(name: string): unknown;
