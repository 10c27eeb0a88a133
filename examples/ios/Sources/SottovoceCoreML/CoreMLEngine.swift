#if canImport(CoreML)
import CoreML
import Foundation
import SottovoceCore

/// A compiled package (`.mlmodelc`), opened once per function.
public final class CoreMLEngine: Engine {
    private let models: [String: MLModel]

    public init(_ url: URL, functions: [String], units: MLComputeUnits = .all) throws {
        models = try Dictionary(uniqueKeysWithValues: functions.map { function in
            let configuration = MLModelConfiguration()
            configuration.computeUnits = units
            configuration.functionName = function
            return (function, try MLModel(contentsOf: url, configuration: configuration))
        })
    }

    public func value(_ tensor: Tensor) throws -> MLMultiArray {
        let array = try MLMultiArray(shape: tensor.shape.map { NSNumber(value: $0) }, dataType: .float16)
        array.withUnsafeMutableBytes { bytes, strides in
            let halves = bytes.bindMemory(to: Float16.self)
            for (index, value) in tensor.values.enumerated() { halves[offset(index, tensor.shape, strides)] = value }
        }
        return array
    }

    public func tensor(_ value: MLMultiArray) throws -> Tensor {
        guard value.dataType == .float16 else { throw BundleError.damaged("an output is not of half precision") }
        let shape = value.shape.map(\.intValue), strides = value.strides.map(\.intValue)
        let values: [Float16] = value.withUnsafeBytes { bytes in
            let halves = bytes.bindMemory(to: Float16.self)
            return (0..<shape.reduce(1, *)).map { halves[offset($0, shape, strides)] }
        }
        return Tensor(shape, values)
    }

    public func makeState(_ function: String) throws -> MLState { try model(function).makeState() }

    public func predict(_ function: String, _ feeds: [String: MLMultiArray], _ state: MLState?) throws -> [String: MLMultiArray] {
        let features = try MLDictionaryFeatureProvider(dictionary: feeds), opened = try model(function)
        let made = try state.map { try opened.prediction(from: features, using: $0) } ?? opened.prediction(from: features)
        return made.featureNames.reduce(into: [:]) { $0[$1] = made.featureValue(for: $1)?.multiArrayValue }
    }

    private func model(_ function: String) throws -> MLModel {
        guard let model = models[function] else { throw BundleError.unsupported("no function \(function)") }
        return model
    }
}

/// Where the value that is number `index` row by row lies in an array whose rows may be padded.
private func offset(_ index: Int, _ shape: [Int], _ strides: [Int]) -> Int {
    var rest = index, place = 0
    for axis in shape.indices.reversed() {
        place += rest % shape[axis] * strides[axis]
        rest /= shape[axis]
    }
    return place
}

/// The bundle in the folder `bundle`, whose packages were compiled to `decoder` and `codec`.
public func openVoice(bundle: URL, decoder: URL, codec: URL, units: MLComputeUnits = .all) throws -> Voice<CoreMLEngine> {
    let spec = try Manifest(folder: bundle).coreml
    let functions = ["decode", "prefill"] + (spec.patch == nil ? [] : ["compress", "extract"])
    return try Voice(
        bundle: bundle,
        decoder: CoreMLEngine(decoder, functions: functions, units: units),
        codec: CoreMLEngine(codec, functions: spec.codec_codes.map { "codes_\($0)" }, units: units))
}
#endif
