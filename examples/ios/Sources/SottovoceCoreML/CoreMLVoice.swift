#if canImport(CoreML)
import CoreML
import Foundation
import SottovoceCore

/// A bundle that speaks through Core ML; one utterance at a time. Packages must keep caches as inputs and outputs.
public final class CoreMLVoice {
    public let manifest: Manifest
    private let decode, prefill: MLModel
    private let codec: [Int: MLModel]
    private let embedding, positions, values: Table
    private var caches: [String: MLMultiArray] = [:]
    private var slots: Slots

    /// `bundle` holds manifest and tables; `decoder` and `codec` are the compiled packages (`.mlmodelc`).
    public init(bundle: URL, decoder: URL, codec: URL, units: MLComputeUnits = .all) throws {
        manifest = try Manifest(folder: bundle)
        guard !manifest.coreml.stateful, manifest.coreml.rotary, let values = manifest.coreml.codec_values else {
            throw BundleError.unsupported("states, learned positions or a decoder alone")
        }
        func open(_ url: URL, _ function: String) throws -> MLModel {
            let configuration = MLModelConfiguration()
            configuration.computeUnits = units
            configuration.functionName = function
            return try MLModel(contentsOf: url, configuration: configuration)
        }
        decode = try open(decoder, "decode")
        prefill = try open(decoder, "prefill")
        self.codec = try Dictionary(uniqueKeysWithValues: manifest.coreml.codec_codes.map { ($0, try open(codec, "codes_\($0)")) })
        embedding = try Table(bundle.appendingPathComponent(manifest.coreml.embedding))
        positions = try Table(bundle.appendingPathComponent(manifest.coreml.positions))
        self.values = try Table(bundle.appendingPathComponent(values))
        slots = Slots(prefix: manifest.cache.groups[0].prefix, window: manifest.cache.groups[0].window)
    }

    /// Samples of what follows the prefix `ids`, at most `maxTokens` codes.
    public func speak(prefix ids: [Int], maxTokens: Int, seed: UInt64) throws -> [Float] {
        guard let prompt = manifest.prompt, let sampling = manifest.sampling else {
            throw BundleError.unsupported("a decoder alone")
        }
        var sampler = Sampler(sampling, head: manifest.head, stop: prompt.stop, seed: seed)
        var codes: [Int] = []
        var logits = try read(ids)
        while codes.count < maxTokens, slots.position < manifest.max_position, let token = sampler.draw(logits) {
            codes.append(token - prompt.code_offset)
            let slot = slots.nextRingSlot()
            logits = try step(token, position: slots.position - 1, slot: slot)
        }
        return try sound(codes)
    }

    /// Reads a prefix; logits of the first token. All ids but the last go through `prefill`.
    private func read(_ ids: [Int]) throws -> [Float] {
        let group = manifest.cache.groups[0], size = manifest.coreml.prefill_tokens
        guard !ids.isEmpty, ids.count <= group.prefix else { throw BundleError.tooLong("\(ids.count) prefix tokens") }
        slots = Slots(prefix: group.prefix, window: group.window)
        for layer in 0..<group.layers {
            for part in ["key", "value"] {
                caches["\(layer)_\(part)"] = try zeros([1, group.kv_heads, group.head_dim, group.slots])
            }
        }
        var start = 0
        while start < ids.count - 1 {
            let chunk = Array(ids[start..<min(start + size, ids.count - 1)])
            try readChunk(chunk, from: start)
            slots.fill(chunk.count)
            start += chunk.count
        }
        slots.fill(1)
        return try step(ids[ids.count - 1], position: ids.count - 1, slot: ids.count - 1)
    }

    /// Up to `prefill_tokens` ids into the slots from `start` on; rows beyond them are written nowhere.
    private func readChunk(_ ids: [Int], from start: Int) throws {
        let size = manifest.coreml.prefill_tokens, count = slots.visible.count
        let bias = try zeros([1, 1, size, count]), write = try zeros([1, 1, size, count])
        for row in 0..<size {
            let last = start + min(row, ids.count - 1)
            for slot in 0..<count where slot > last { bias[row * count + slot] = -30000 }
            if row < ids.count { write[row * count + start + row] = 1 }
        }
        let padded = ids + Array(repeating: ids[ids.count - 1], count: size - ids.count)
        let places = (0..<size).map { start + min($0, ids.count - 1) }
        _ = try run(prefill, padded, places, bias, write)
    }

    /// One token into `slot`; logits of the next.
    private func step(_ token: Int, position: Int, slot: Int) throws -> [Float] {
        let count = slots.visible.count
        let bias = try zeros([1, 1, 1, count]), write = try zeros([1, 1, 1, count])
        for (index, seen) in slots.visible.enumerated() where !seen { bias[index] = -30000 }
        write[slot] = 1
        let outputs = try run(decode, [token], [position], bias, write)
        return manifest.io.outputs.filter { $0.name.hasPrefix("logits") }.flatMap { floats(outputs[$0.name]!) }
    }

    /// One run over the caches, which its outputs replace.
    private func run(_ model: MLModel, _ ids: [Int], _ places: [Int], _ bias: MLMultiArray, _ write: MLMultiArray) throws
        -> [String: MLMultiArray]
    {
        let half = positions.shape[2]
        var feeds: [String: MLMultiArray] = [
            "inputs_embeds": try columns(ids.map(embedding.row), [1, embedding.rowCount, 1, ids.count]),
            "rotary_cos": try columns(places.map { Array(positions.row($0)[..<half]) }, [1, 1, half, ids.count]),
            "rotary_sin": try columns(places.map { Array(positions.row($0)[half...]) }, [1, 1, half, ids.count]),
            "attention_bias": bias, "cache_write": write,
        ]
        for (name, cache) in caches { feeds["past_key_values_\(name)"] = cache }
        let outputs = try predict(model, feeds)
        for name in caches.keys { caches[name] = outputs["present_\(name)"] }
        return outputs
    }

    /// Samples of `codes`: long runs, then single ones; the codec's delay is dropped.
    private func sound(_ codes: [Int]) throws -> [Float] {
        guard let spec = manifest.codec else { throw BundleError.unsupported("a decoder alone") }
        var rest = (codes + Array(repeating: spec.flush_code, count: spec.flush_codes))[...]
        var states = try Dictionary(uniqueKeysWithValues: spec.states.map { ($0.name, try zeros($0.shape)) })
        var samples: [Float] = []
        while let size = codec.keys.filter({ $0 <= rest.count }).max(), !rest.isEmpty {
            var feeds = states
            feeds["values"] = try columns(rest.prefix(size).map(values.row), [1, values.rowCount, 1, size])
            let outputs = try predict(codec[size]!, feeds)
            for name in states.keys { states[name] = outputs["next_\(name)"] }
            let audio = floats(outputs["audio"]!)  // [hop, N]: a code's samples are a column
            for code in 0..<size { samples += (0..<spec.hop).map { audio[$0 * size + code] } }
            rest = rest.dropFirst(size)
        }
        return Array(samples.dropFirst(spec.delay).prefix(codes.count * spec.hop))
    }
}

private func predict(_ model: MLModel, _ feeds: [String: MLMultiArray]) throws -> [String: MLMultiArray] {
    let outputs = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: feeds))
    var arrays: [String: MLMultiArray] = [:]
    for name in outputs.featureNames { arrays[name] = outputs.featureValue(for: name)?.multiArrayValue }
    return arrays
}

private func zeros(_ shape: [Int]) throws -> MLMultiArray {
    let array = try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: .float16)
    array.withUnsafeMutableBytes { bytes, _ in _ = bytes.initializeMemory(as: UInt8.self, repeating: 0) }
    return array
}

/// Rows of halves as the columns of an array whose last axis counts them; a fresh array lies row by row.
private func columns(_ rows: [[UInt16]], _ shape: [Int]) throws -> MLMultiArray {
    let array = try zeros(shape)
    array.withUnsafeMutableBytes { bytes, strides in
        let halves = bytes.bindMemory(to: UInt16.self)
        let down = strides[strides.count - 1 - (shape[shape.count - 2] == 1 ? 2 : 1)]
        for (column, row) in rows.enumerated() {
            for (index, bits) in row.enumerated() { halves[index * down + column * strides[strides.count - 1]] = bits }
        }
    }
    return array
}

private func floats(_ array: MLMultiArray) -> [Float] {
    (0..<array.count).map { array[$0].floatValue }
}
#endif
