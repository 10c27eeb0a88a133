import Foundation

/// The parts of `manifest.json` that a host of Core ML packages needs; names are those of the file.
public struct Manifest: Codable {
    public struct Group: Codable {
        public let layers, kv_heads, head_dim, prefix, window: Int
        public var slots: Int { prefix + window }
    }
    public struct Cache: Codable {
        public let groups: [Group]
        public let write: String
    }
    public struct Tensor: Codable {
        public let name: String
        public let shape: [Int]
    }
    public struct IO: Codable {
        public let inputs, outputs: [Tensor]
    }
    public struct Head: Codable {
        public let ids: [[Int]]
        /// Token id of each logit.
        public var tokens: [Int] { ids.flatMap { Array($0[0]..<$0[1]) } }
    }
    public struct Prompt: Codable {
        public let code_offset, code_count: Int
        public let stop: [Int]
    }
    public struct Sampling: Codable {
        public let temperature: Double
        public let top_k: Int
        public let top_p: Double
        public let repetition_penalty: Double
        public let repetition_window, ras_window: Int
        public let ras_tau: Double
    }
    public struct State: Codable {
        public let name: String
        public let shape: [Int]
    }
    public struct Codec: Codable {
        public let sample_rate, hop, delay, flush_codes, flush_code: Int
        public let states: [State]
    }
    public struct Patch: Codable {
        public let size, speaker: Int
        public let window: Int?
    }
    public struct PatchFunctions: Codable {
        public let compress, extract: IO
        public let start, extract_positions: String
        public let compress_positions: String?
    }
    public struct CoreML: Codable {
        public let prefill_tokens: Int
        public let stateful, rotary: Bool
        public let embedding, positions: String
        public let codec_values: String?
        public let codec_codes: [Int]
        public let patch: PatchFunctions?
    }

    public let schema: Int
    public let cache: Cache
    public let io: IO
    public let head: Head
    public let max_position: Int
    public let prompt: Prompt?
    public let sampling: Sampling?
    public let codec: Codec?
    public let patch: Patch?
    public let coreml: CoreML

    /// Reads `manifest.json` in `folder`; refuses another schema or another way of writing caches.
    public init(folder: URL) throws {
        let data = try Data(contentsOf: folder.appendingPathComponent("manifest.json"))
        self = try JSONDecoder().decode(Manifest.self, from: data)
        guard schema == 4, cache.write == "inplace" else {
            throw BundleError.unsupported("schema \(schema), caches written \(cache.write) (4, inplace)")
        }
        let groups = patch.map { $0.window == nil ? 2 : 3 } ?? 1
        guard cache.groups.count == groups, (patch == nil) == (coreml.patch == nil) else {
            throw BundleError.damaged("\(cache.groups.count) groups of caches")
        }
    }
}

public enum BundleError: Error {
    case unsupported(String)
    case damaged(String)
    case tooLong(String)
}
